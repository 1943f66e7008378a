"""Evaluation: questions from local files, metrics, statistics and reports, and the program `visualglm evaluate`.

    data/        files in the formats of public benchmarks -> `Question`
    metrics/     answers -> scores, equal to those of the official scripts
    bootstrap    confidence intervals and paired comparisons, clustered by image
    calibration  reliability bins of the model's probabilities
    reliance     right answers by how much they rely on their images
    comparison   two runs on the same questions
    seeds        several sampling seeds
    swaps        the control with swapped images
    report       results as data and JSON; report_table and report_page show them
    loaded_model has the questions answered by a model that is already loaded
    program      has the questions answered by `visualglm.batch` (question_tasks), then reports

Only loaded_model and the program import torch, when they answer. Answers come as plain rows: see
`visualglm.evaluation.answers`.
"""
