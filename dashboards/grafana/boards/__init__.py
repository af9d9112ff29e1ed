"""The three boards as tables. Panels are changed here, never in the JSON: 11,000 lines of it hide a wrong query."""
