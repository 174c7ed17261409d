"""How are models served over HTTP and WebSockets? Over `segue/runtime/`, in one process, without torch.

`server.py` runs `app.py`, which puts a `guard.py` before the endpoints; `endpoints/` has a file for each kind of them.
`loaded.py` has the models, `work.py` runs what a request asks of them in a thread, `batching.py` shares their batches.
"""
