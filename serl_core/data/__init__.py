"""Episodes on disk and replay in memory."""
