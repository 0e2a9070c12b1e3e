"""Tasks, benchmarks and walkthroughs."""
