"""What is looked at while a run trains, and what of it should make a person look: cheap measures and early warnings.

A look changes nothing of the training: it draws from the samples' own noise, and leaves every net as it was.
"""
