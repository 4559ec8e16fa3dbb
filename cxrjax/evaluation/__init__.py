"""From a restored run to figures, reports and comparisons."""
