"""What several scripts need: models, data, and pages. A script in a subfolder puts ``examples`` on its path first."""
