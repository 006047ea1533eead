"""What each setting may be, and what depends on it. Every setting of `myconfig.py` is in one of these tables."""

# What a stored feature depends on, and what the shape of the encoder depends on. Both are saved inside a model.
FEATURE_SETTINGS = ("N_MFCC", "N_FFT", "HOP_LENGTH", "N_MELS", "CEPSTRAL_MEAN_NORMALIZATION")
LSTM_SETTINGS = (
    "LSTM_HIDDEN_SIZE",
    "LSTM_NUM_LAYERS",
    "LSTM_LAYER_NORM",
    "BI_LSTM",
    "FRAME_AGGREGATION_MEAN",
    "ENSEMBLE_SIZE",
    "TDNN_CHANNELS",
)
TRANSFORMER_SETTINGS = ("TRANSFORMER_DIM", "TRANSFORMER_ENCODER_LAYERS", "TRANSFORMER_HEADS")
SHAPE_SETTINGS = ("DELTAS", "STACKED_FRAMES", "USE_TRANSFORMER", *LSTM_SETTINGS, *TRANSFORMER_SETTINGS)
MODEL_SETTINGS = FEATURE_SETTINGS + SHAPE_SETTINGS

# What these were for all models that were saved before there were such settings.
VALUES_BEFORE = {
    "ENSEMBLE_SIZE": 1,
    "DELTAS": False,
    "STACKED_FRAMES": 1,
    "USE_TRANSFORMER": False,
    "LSTM_LAYER_NORM": False,
    "TDNN_CHANNELS": 0,
}


def settings_in_use(values: dict) -> tuple[str, ...]:
    """Those of MODEL_SETTINGS that a model with these values depends on: not those of the other kind of network."""
    unused = LSTM_SETTINGS if values["USE_TRANSFORMER"] else TRANSFORMER_SETTINGS
    return tuple(name for name in MODEL_SETTINGS if name not in unused)


# The trained weights depend on these too, so a checkpoint is only continued with the same ones. The initial models are
# compared first, because the shape comes from them.
OTHER_TRAINING_SETTINGS = (
    "TRIPLET_MINING",
    "MINING_SHARPNESS",
    "TRIPLET_ALPHA",
    "BATCH_SIZE",
    "UTTERANCES_PER_SPEAKER",
    "MAX_SPEECH_SECONDS",
    "ONE_CORPUS_BATCHES",
    "CORPORA",
    "CORPUS_BALANCE",
    "SEQ_LEN",
    "SEQ_LEN_JITTER",
    "SPEEDS",
    "LEARNING_RATE",
    "LEARNING_RATE_SCHEDULE",
    "NUM_VALIDATION_SPEAKERS",
    "CHANNEL_AUGMENTATION",
    "GAIN_AUGMENTATION_DB",
    "DISTURBED_BATCHES",
    "ROOM_PROB",
    "NOISE_PROB",
    "NARROW_BAND_PROB",
    "NOISE_DIR",
    "NOISE_SNR_DB",
    "SPECAUG_TRAINING",
    "SPECAUG_FREQ_MASK_PROB",
    "SPECAUG_TIME_MASK_PROB",
    "SPECAUG_FREQ_MASK_MAX_WIDTH",
    "SPECAUG_TIME_MASK_MAX_WIDTH",
    "MIXED_PRECISION",
    "SEED",
)
TRAINING_SETTINGS = ("INITIAL_MODELS", *MODEL_SETTINGS, *OTHER_TRAINING_SETTINGS)

# Lowest and highest value; if both are whole, only whole numbers are allowed. For a tuple they apply to each value.
LIMITS = {
    "N_MFCC": (1, 512),
    "N_FFT": (64, 16384),
    "HOP_LENGTH": (16, 16384),
    "N_MELS": (1, 512),
    "STACKED_FRAMES": (1, 64),
    "LSTM_HIDDEN_SIZE": (1, 4096),
    "LSTM_NUM_LAYERS": (1, 16),
    "ENSEMBLE_SIZE": (1, 16),
    "TDNN_CHANNELS": (0, 4096),
    "TRANSFORMER_DIM": (1, 4096),
    "TRANSFORMER_ENCODER_LAYERS": (1, 16),
    "TRANSFORMER_HEADS": (1, 64),
    "MINING_SHARPNESS": (0.1, 1000.0),
    "TRIPLET_ALPHA": (0.0, 2.0),
    "BATCH_SIZE": (1, 65536),
    "UTTERANCES_PER_SPEAKER": (2, 1024),
    "MAX_SPEECH_SECONDS": (0.0, 1e9),
    "ONE_CORPUS_BATCHES": (0.0, 1.0),
    "CORPUS_BALANCE": (0.0, 1.0),
    "SEQ_LEN": (2, 100000),
    "SEQ_LEN_JITTER": (0.0, 0.9),
    "SPEEDS": (0.5, 2.0),
    "TRAINING_STEPS": (1, 10**9),
    "LEARNING_RATE": (1e-8, 1.0),
    "SAVE_MODEL_FREQUENCY": (1, 10**9),
    "NUM_VALIDATION_SPEAKERS": (0, 10**6),
    "CHANNEL_AUGMENTATION": (0.0, 10.0),
    "GAIN_AUGMENTATION_DB": (0.0, 40.0),
    "DISTURBED_BATCHES": (0.0, 1.0),
    "ROOM_PROB": (0.0, 1.0),
    "NOISE_PROB": (0.0, 1.0),
    "NARROW_BAND_PROB": (0.0, 1.0),
    "NOISE_SNR_DB": (-20.0, 100.0),
    "SPECAUG_FREQ_MASK_PROB": (0.0, 1.0),
    "SPECAUG_TIME_MASK_PROB": (0.0, 1.0),
    "SPECAUG_FREQ_MASK_MAX_WIDTH": (1, 512),
    "SPECAUG_TIME_MASK_MAX_WIDTH": (1, 100000),
    "NUM_EVAL_TRIPLETS": (1, 10**8),
    "EVAL_ENROL_UTTS": (1, 1000),
    "SLIDING_WINDOW_STEP": (1, 100000),
    "EVAL_THRESHOLD_STEP": (0.0, 1.0),
    "NUM_PROCESSES": (1, 1024),
    "SEED": (0, 2**63 - 1),
}

CHOICES = {
    "CEPSTRAL_MEAN_NORMALIZATION": (False, True),
    "DELTAS": (False, True),
    "USE_TRANSFORMER": (False, True),
    "LSTM_LAYER_NORM": (False, True),
    "BI_LSTM": (False, True),
    "FRAME_AGGREGATION_MEAN": (False, True),
    "START_OVER": (False, True),
    "TRIPLET_MINING": ("smooth_batch_hard", "batch_hard", "random"),
    "LEARNING_RATE_SCHEDULE": ("cosine", "constant"),
    "SPECAUG_TRAINING": (False, True),
    "AS_NORM": (False, True),
    "USE_FULL_SEQUENCE_INFERENCE": (False, True),
    "DEVICE": ("auto", "cuda", "mps", "cpu"),
    "MIXED_PRECISION": (False, True),
}

# Settings that are lists of numbers, paths, and paths that may be empty.
LISTS = ("SPEEDS", "NOISE_SNR_DB")
DATA_PATHS = ("TRAIN_DATA_DIR", "TEST_DATA_DIR", "FEATURE_STORE_DIR", "CONDITIONS_DIR", "RESULTS_DIR")
PATHS = (*DATA_PATHS, "SAVED_MODEL_PATH", "EVAL_TRIALS")
OPTIONAL_PATHS = ("TRAIN_DATA_CSV", "TEST_DATA_CSV", "INITIAL_MODELS", "NOISE_DIR", "TEST_NOISE_DIR")
OPTIONAL_TEXTS = (*OPTIONAL_PATHS, "CORPORA", "NO_COHORT_CORPORA")
