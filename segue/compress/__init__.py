"""How does a trained model get smaller and faster?"""
