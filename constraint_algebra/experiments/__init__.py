"""Experiments: sample images, captured steps, measures of likeness, results on disk.

| module | concept |
| --- | --- |
| `samples` | public images by name |
| `metrics` | MSE, PSNR, SSIM |
| `recipe` | how to obtain a model: a name of the zoo, or a function in a file |
| `capture` | one client's step as an observer sees it |
| `results` | a reconstruction on disk |
"""
