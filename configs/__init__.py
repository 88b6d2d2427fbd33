"""Configs, one file a paper: `--config=NAME` or `--config=NAME:VARIANT`. They are installed as `jaxpose.configs`."""
