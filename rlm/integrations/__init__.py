"""rlm in other frameworks. Each module needs its own extra and is imported only by users."""
