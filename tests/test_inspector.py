"""A picture under a detector: the look is what the model does, and a moved query is another run."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ddetr_edu as dd
from ddetr_edu.attention.interpolation import bilinear_sample
from ddetr_edu.detector import DETRConfig, PictureSize
from ddetr_edu.inspector import Exploration, value_lengths
