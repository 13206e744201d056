"""How artifacts are kept: one file an artifact type, safetensors, Parquet and JSON, never pickle."""
