"""What results amount to: tables, statistics, plots, comparisons."""
