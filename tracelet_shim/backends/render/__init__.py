"""Events in forms that people look at: files, bins, figures, tables. Knows no tracker."""
