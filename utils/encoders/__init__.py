"""Pretrained speech encoders: embeddings, a linear probe, fine-tuning (PyTorch, transformers).

In: an encoder and clips. Out: time means of its layers, a fitted head, a fine-tuned stock classifier.
"""
