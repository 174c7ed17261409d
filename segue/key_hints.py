"""Suggestions for unknown keys of a recipe: names from other toolkits, keys of other tables, and typos."""

import difflib
from collections.abc import Iterable, Sequence

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "optimizer.learning_rate": ("lr", "rate", "max_lr", "peak_lr", "base_lr", "learningrate", "step_size"),
    "optimizer.weight_decay": ("wd", "l2", "decay"),
    "optimizer.betas": ("beta", "beta1", "beta2", "adam_beta1", "adam_beta2", "momentum"),
    "optimizer.epsilon": ("eps", "adam_epsilon"),
    "optimizer.kind": ("optim", "optimizer", "optimiser", "name", "type"),
    "schedule.warmup_steps": ("warmup", "warmup_updates", "num_warmup_steps", "warmup_ratio"),
    "schedule.kind": ("scheduler", "lr_scheduler", "lr_scheduler_type", "sched", "lr_schedule"),
    "schedule.final_share": ("min_lr", "final_lr"),
    "engine.steps": (
        *("epochs", "epoch", "num_epochs", "max_epochs", "n_epochs", "num_train_epochs", "max_epoch"),
        *("max_steps", "num_steps", "n_steps", "train_steps", "iterations", "max_iter", "num_iterations"),
        *("max_updates", "max_update", "updates", "total_steps"),
    ),
    "engine.evaluate_every": (
        *("eval_steps", "eval_every", "eval_interval", "evaluation_steps", "evaluate", "valid_steps", "validate_every"),
        *("val_check_interval", "validation_interval", "check_val_every_n_epoch", "validate_interval"),
    ),
    "engine.save_every": (
        *(
            "save_steps",
            "save_interval",
            "checkpoint_every",
            "save_freq",
            "checkpoint_interval",
            "save_checkpoint_steps",
        ),
    ),
    "engine.keep_checkpoints": ("save_total_limit", "keep_last_epochs", "save_top_k", "keep_checkpoint"),
    "engine.log_every": ("logging_steps", "log_interval", "log_every_n_steps", "log_steps"),
    "engine.clip_norm": (
        *("grad_clip", "gradient_clip_val", "clip", "max_grad_norm", "clip_grad", "clip_grad_norm", "gradient_clip"),
        *("gradient_clipping", "max_norm"),
    ),
    "engine.precision": ("fp16", "bf16", "amp", "mixed_precision", "dtype", "half"),
    "engine.workers": ("num_workers", "dataloader_num_workers", "n_workers"),
    "engine.threads": ("num_threads", "n_threads", "cpus"),
    "engine.device": ("gpu", "cuda", "accelerator", "use_gpu", "use_cuda", "cpu"),
    "engine.data_parallel": ("gpus", "num_gpus", "devices", "n_gpus", "world_size"),
    "engine.moving_average_decay": ("ema", "ema_decay"),
    "engine.average_count": ("average_checkpoints", "avg", "num_average"),
    "engine.recompute": ("gradient_checkpointing", "activation_checkpointing", "checkpoint_activations"),
    "batch": ("batch_size", "bs", "batchsize", "train_batch_size", "per_device_train_batch_size", "max_tokens"),
    "batch.micro_batches": (
        *("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum", "update_freq", "accum_grad"),
    ),
    "data.root": ("data", "data_dir", "dataset", "data_root", "root_dir", "data_path", "dir", "path", "folder"),
    "data.train": (
        "train_manifest",
        "train_data",
        "train_ds",
        "trainpref",
        "train_file",
        "manifest_filepath",
        "train_set",
    ),
    "data.dev": (
        *("dev_manifest", "valid_manifest", "validation_ds", "validation", "valid", "val", "validpref", "eval_data"),
        *("valid_data", "dev_set", "val_data", "validation_file"),
    ),
    "data.longest_seconds": ("max_duration", "max_seconds", "max_length", "max_len", "max_audio_length"),
    "data.longest_tokens": ("max_source_positions", "max_length", "max_len", "max_seq_len", "max_target_positions"),
    "tokenizer.alphabet": ("labels", "vocabulary", "vocab", "charset", "characters", "chars"),
    "tokenizer.size": ("vocab_size", "vocabulary_size", "num_merges", "vocab", "bpe_codes"),
    "features.sample_rate_hz": ("sample_rate", "sampling_rate", "sr", "samplerate", "rate_hz"),
    "features.mel_bins": ("n_mels", "num_mel_bins", "num_mels", "nfilt", "n_mel", "num_features"),
    "model.width": ("d_model", "hidden_size", "hidden_dim", "embed_dim", "embedding_dim", "model_dim", "dim"),
    "model.feed_forward": ("d_ff", "ffn_dim", "ffn_embed_dim", "intermediate_size", "dim_feedforward"),
    "model.heads": ("n_heads", "num_heads", "attention_heads", "nhead", "num_attention_heads"),
    "model.encoder_layers": ("num_encoder_layers", "layers", "n_layers", "num_layers"),
    "model.decoder_layers": ("num_decoder_layers",),
    "model.dropout": ("dropout_rate", "p_drop"),
    "model.blocks": ("dropout", "channels", "kernel", "layers"),
    "search.beams": ("beam", "beam_size", "num_beams", "beam_width"),
    "search.alpha": ("length_penalty", "lenpen"),
    "label_smoothing": ("smoothing", "label_smoothing_factor"),
    "seed": ("random_seed", "manual_seed"),
    "metric": ("metric_for_best_model", "best_checkpoint_metric"),
}
"""Key -> its names in other toolkits, in lowercase with underscores. `batch` stands for the keys in BUDGETS."""
BUDGETS = ("batch.seconds", "batch.tokens")


def plain(name: str) -> str:
    """A name as in the table above: --Batch-Size becomes batch_size."""
    return name.strip("-").replace("-", "_").casefold()


def hint(key: str, keys: Sequence[str]) -> str | None:
    """A question that suggests one of a recipe's dotted `keys` for the unknown `key`; None if nothing is similar."""
    found = meant(key, keys)
    if not found:
        return None
    table, name = key.rpartition(".")[0], plain(key.rpartition(".")[2])
    said = found[0].removeprefix(f"{table}.") if table else found[0]
    more = ""
    if found[0] == "engine.steps" and "epoch" in name:
        more = ', as in "20 epochs"'
    elif found[0] in BUDGETS and name in OTHER_NAMES["batch"]:
        more = f", in {said.rpartition('.')[2]} instead of examples"
    return f"did you mean '{said}'{more}?"


def meant(key: str, keys: Sequence[str]) -> list[str]:
    """Those of a recipe's dotted `keys` that the unknown `key` may stand for, the most likely first."""
    table, _, name = key.rpartition(".")
    wanted, beside = plain(name), [each for each in keys if each.rpartition(".")[0] == table]
    named = [each for each, names in OTHER_NAMES.items() if wanted in names]
    budgets = [each for each in keys if each in BUDGETS]
    known = [found for each in named for found in (budgets if each == "batch" else [each] if each in keys else [])]
    same = [each for each in keys if each.rpartition(".")[2] == wanted]
    near = [f"{table}.{each}" if table else each for each in _near(name, [k.rpartition(".")[2] for k in beside])]
    # Keys of other tables have to be more similar.
    far = [each for each in keys if _near(wanted, [each.rpartition(".")[2]], 0.8)]
    return list(dict.fromkeys([*sorted(known, key=lambda each: each not in beside), *same, *near, *far]))


def _near(name: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
