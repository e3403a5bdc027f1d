"""Files on disk: path.json, raw text, artifacts, and safe writing."""
