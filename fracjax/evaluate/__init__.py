"""A model's figures on labelled images, and what they mean."""

from fracjax.evaluate.cases import Cases, of_images, of_studies
from fracjax.evaluate.headlines import cross_entropy, figures, overall
from fracjax.evaluate.predicting import predict
from fracjax.evaluate.report import read_cases, write_report
from fracjax.evaluate.running import Settings, evaluate_images, evaluate_site

__all__ = [
    "Cases",
    "Settings",
    "cross_entropy",
    "evaluate_images",
    "evaluate_site",
    "figures",
    "of_images",
    "of_studies",
    "overall",
    "predict",
    "read_cases",
    "write_report",
]
