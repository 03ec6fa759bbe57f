"""Evaluators of embeddings: linear probe, weighted nearest neighbours, geometry. Each `make` returns an `Evaluator`."""
