"""Reports on results: tables, statistics, plots, comparisons."""
