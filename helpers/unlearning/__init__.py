"""The unlearning routines: each one function of (model, data, hyper-parameters, seed) that returns a new model.

`METHODS` lists them. A new method is one function with that signature and one entry here.
"""

from helpers.unlearning.ascent import AscentSettings, gradient_ascent
from helpers.unlearning.baselines import (
    DampeningSettings,
    FineTuneSettings,
    NegGradSettings,
    RandomLabelSettings,
    SalUnSettings,
    fine_tune,
    neggrad_plus,
    random_labels,
    salun,
    selective_synaptic_dampening,
)
from helpers.unlearning.common import Log, Method, UnlearningData
from helpers.unlearning.generator import GefeuSettings, GemuSettings, gefeu, gemu

METHODS = {
    method.name: method
    for method in (
        Method("ascent", "Gradient Ascent", gradient_ascent, AscentSettings()),
        Method("tuned_ascent", "Tuned Ascent", gradient_ascent, AscentSettings(passes=1, lr=0.0533)),
        Method("gemu", "GEMU", gemu, GemuSettings()),
        Method("gefeu", "GeFeU", gefeu, GefeuSettings()),
        Method("finetune", "Fine-tuning", fine_tune, FineTuneSettings()),
        Method("neggrad", "NegGrad+", neggrad_plus, NegGradSettings()),
        Method("randomlabels", "Random labels", random_labels, RandomLabelSettings()),
        Method("ssd", "SSD", selective_synaptic_dampening, DampeningSettings()),
        Method("salun", "SalUn", salun, SalUnSettings()),
    )
}

# methods without a notebook of their own: what an expert asks for beside the three routines
CHEAP = ("tuned_ascent", "finetune", "neggrad", "randomlabels", "ssd", "salun")

__all__ = ["CHEAP", "METHODS", "Log", "Method", "UnlearningData", "gefeu", "gemu", "gradient_ascent"]
