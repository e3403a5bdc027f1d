"""Evaluation: metrics, results.jsonl, the studies, their tables and figures, and the report."""
