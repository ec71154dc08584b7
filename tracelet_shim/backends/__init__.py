"""Trackers: the contract (`base`), the registry, and one module for each tracker."""
