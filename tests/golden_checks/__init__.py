"""Comparisons with the original implementations, one module a group of cases; each has a table CHECKS."""
