"""Splits, searches and advice: what stands between a data set and a chosen model."""

from sktl.model_selection._diagnose import DiagnosisDisplay, diagnose
from sktl.model_selection._label_efficiency import LabelEfficiency, label_efficiency_curve
from sktl.model_selection._model_ranking import ModelComparison, ModelRanking
from sktl.model_selection._optuna_search import OptunaSearch
from sktl.model_selection._rank_models import rank_models
from sktl.model_selection._recommend import Strategy, recommend_strategy
from sktl.model_selection._spaces import fine_tuning_space, frozen_space
from sktl.model_selection._splits import PerClassSplit, per_class_split
from sktl.model_selection._splits_from_list import split_from_list

__all__ = [
    "DiagnosisDisplay",
    "LabelEfficiency",
    "ModelComparison",
    "ModelRanking",
    "OptunaSearch",
    "PerClassSplit",
    "Strategy",
    "diagnose",
    "fine_tuning_space",
    "frozen_space",
    "label_efficiency_curve",
    "per_class_split",
    "rank_models",
    "recommend_strategy",
    "split_from_list",
]
