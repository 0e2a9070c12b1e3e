"""Measurements behind the README's tables; results lie beside them as CSV and PNG."""
