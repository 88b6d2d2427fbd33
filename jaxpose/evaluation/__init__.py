"""From what a method finds to numbers: suppression, rescoring, tracking, metrics."""
