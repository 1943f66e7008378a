"""SAT: what SwissArmyTransformer needs on current versions, and what fine-tuning adds to its networks."""
