"""The launchers of distillery's programs."""
