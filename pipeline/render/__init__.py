"""From tensors and run folders to pictures and the report page."""
