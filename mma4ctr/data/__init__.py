"""The kept interactions: sorting and deduplication, splits, negative sampling, export to RecBole."""
