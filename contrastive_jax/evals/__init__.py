"""Evaluators of embeddings: probes, neighbours and geometry of images; retrieval, zero-shot classes, minimal pairs and
gaps of images and captions. Each `make` returns an `Evaluator`."""
