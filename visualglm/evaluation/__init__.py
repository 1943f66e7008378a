"""Evaluation without a model: questions from local files, metrics, statistics and reports.

    data/        files in the formats of public benchmarks -> `Question`
    metrics/     answers -> scores, equal to those of the official scripts
    bootstrap    confidence intervals and paired comparisons, clustered by image
    calibration  reliability bins of the model's probabilities
    swaps        the control with swapped images
    report       a table, JSON, and an HTML page (report_page)

Nothing here imports torch. Answers come as plain rows: see `visualglm.evaluation.answers`.
"""
