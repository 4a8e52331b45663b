"""Reports on results: tables, statistics, plots, comparisons. Imports the plan and the results."""
