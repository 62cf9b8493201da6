"""From images to numbers: extractors give features, and metrics are pure functions of them."""
