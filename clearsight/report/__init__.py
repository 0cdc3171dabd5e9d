"""Plots, the one-file HTML report, and tables for the terminal."""
