"""One file per family of cameras."""
