"""Panels of the explorer, one a file: numbers, drawing, table and words of a figure."""
