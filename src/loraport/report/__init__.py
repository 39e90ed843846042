"""Tables, plots, the report's pages and the advice."""
