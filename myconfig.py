"""The settings of the whole system: plain values, each with its meaning, unit and reason.

Edit them here, or override any of them for one run on the command line of the scripts that train and evaluate:
`python3 neural_net.py TRAINING_STEPS=200 TRAIN_DATA_CSV=my.csv`.
Relative paths start at the folder in which the command is run.
"""

import os

# ---------------------------------------- Data ----------------------------------------

# Folder with the training data, laid out as <speaker>/**/<audio file>, as LibriSpeech is. The default is the small
# synthetic demonstration corpus, which is built when it is first needed.
TRAIN_DATA_DIR = "data/demo/train"

# Folder with the test data, in the same layout; its speakers must not be among those of the training data.
TEST_DATA_DIR = "data/demo/test"

# CSV file with rows `speaker,path`, used instead of TRAIN_DATA_DIR when set; relative paths start at its folder.
TRAIN_DATA_CSV = ""

# The same, instead of TEST_DATA_DIR.
TEST_DATA_CSV = ""

# Folder where features are kept, so that every audio file is decoded only once. It may be deleted while no script runs.
FEATURE_STORE_DIR = "data/features"

# -------------------------------------- Features --------------------------------------

# Number of mel-frequency cepstral coefficients in a frame.
N_MFCC = 40

# Window of the Fourier transform, in samples at 16 kHz: 2048 is 128 ms, librosa's default. The 20 to 30 ms that are
# usual for speech follow the vocal tract more closely; with a long window, the MFCCs also show the pitch.
N_FFT = 2048

# Samples from one frame to the next: 512 is 32 ms, librosa's default, 31 frames a second.
HOP_LENGTH = 512

# Number of mel bands under the cepstrum: librosa's default.
N_MELS = 128

# Subtract each recording's mean cepstrum, which removes the effect of microphone and room, but also some of the voice.
CEPSTRAL_MEAN_NORMALIZATION = False

# --------------------------------------- Encoder --------------------------------------

# Let the network also read the deltas of each frame: by how much the MFCCs change from the frame before to the frame
# after. A fixed microphone shifts the MFCCs of all frames equally, so it hardly changes the deltas.
DELTAS = True

# Frames that the network reads in one step, side by side: with 2, a step is 64 ms, and half as many steps take half the
# time. If frames are left over at the end, the last one is repeated.
STACKED_FRAMES = 2

# Take a transformer instead of LSTMs.
USE_TRANSFORMER = False

# Units of each LSTM layer, in each direction.
LSTM_HIDDEN_SIZE = 128

# Number of LSTM layers.
LSTM_NUM_LAYERS = 3

# Normalise the outputs of each LSTM layer, to mean 0 and standard deviation 1 in each step, and add to them what the
# layer has read, except in the first. In long trainings with many speakers, the EER falls further; in short ones it
# does not.
LSTM_LAYER_NORM = False

# Read the frames in both directions. Doubles the cost of a step and the size of the embedding.
BI_LSTM = False

# The embedding is the mean of the LSTM's outputs over all frames; if False, its output at the last frame.
FRAME_AGGREGATION_MEAN = True

# Number of LSTMs that are trained together, each with its own loss. The embedding joins the outputs of all, so that the
# errors of one matter less. Multiplies the cost of a step and the size of the embedding.
ENSEMBLE_SIZE = 1

# Channels of a time-delay neural network (TDNN, see encoder/tdnn.py) that is trained beside the LSTMs. It makes
# other errors than they do, so that both together make fewer. 0 for none, else a multiple of 4 from 32 on; 128 more
# than doubles the cost of a step. Its part of the embedding is as large as that of an LSTM.
TDNN_CHANNELS = 0

# Size of the transformer's layers, and of its embedding; a multiple of TRANSFORMER_HEADS.
TRANSFORMER_DIM = 32

# Layers of the transformer's encoder; its decoder has one.
TRANSFORMER_ENCODER_LAYERS = 2

# Heads of attention in each layer.
TRANSFORMER_HEADS = 8

# -------------------------------------- Training --------------------------------------

# The trained model. The file next to it that ends in `.last.pt` is the checkpoint from which training continues.
SAVED_MODEL_PATH = "saved_model/saved_model.pt"

# Start from the weights of this model instead of random ones, to train it further with other data or settings. Several
# models without a TDNN, with commas between their paths, become an ensemble. The shape of the encoder comes from these
# models.
INITIAL_MODELS = ""

# Delete the model and its checkpoint, and train from the first step. To continue this training, leave it out again.
START_OVER = False

# Which triplets the loss is made of: "batch_hard" takes for every embedding of the batch the farthest of its own
# speaker and the nearest of another one; "smooth_batch_hard" uses all of them, hard ones more, and does not collapse
# as easily; "random" draws random triplets, as the course does, and needs far more steps.
TRIPLET_MINING = "smooth_batch_hard"

# How much "smooth_batch_hard" prefers hard pairs: at 40 the weight of a pair grows e-fold with 0.025 of similarity.
MINING_SHARPNESS = 40.0

# Margin by which the positive must be nearer than the negative, as a difference of cosine similarities.
TRIPLET_ALPHA = 0.1

# Speakers in a batch. With TRIPLET_MINING="random" it is the number of triplets, the course's meaning.
BATCH_SIZE = 32

# Utterances of each speaker in a batch; "random" does not use it.
UTTERANCES_PER_SPEAKER = 4

# Speakers are drawn for a batch in proportion to their seconds of speech, of which at most this many count; 0 draws all
# speakers equally often.
MAX_SPEECH_SECONDS = 32.0

# What the names of speakers begin with that come from one source, with commas between several: "ls-,so-" for names
# like ls-1088 and so-0012. "" for speakers that all come from one.
CORPORA = ""

# Share of the batches whose speakers are all of one of the CORPORA, so that speakers are not distinguished by
# differences between these. "random" does not use it.
ONE_CORPUS_BATCHES = 0.75

# How far corpora of different size are balanced: at 0 each has its share of the speech, at 1 all have the same, and at
# 0.5 one with four times the speech has twice the share.
CORPUS_BALANCE = 0.5

# Frames of a training crop, and of a sliding window: 100 are 3.2 seconds.
SEQ_LEN = 100

# Each batch draws its crop length between (1 - SEQ_LEN_JITTER) and (1 + SEQ_LEN_JITTER) times SEQ_LEN, so that short
# and long recordings both work; 0 keeps SEQ_LEN, as the course does.
SEQ_LEN_JITTER = 0.6

# The speeds of the training data. Each speed makes a new speaker of every speaker: 1.1 is 10 % faster and higher. Must
# include 1.0.
SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.2)

# Number of optimiser steps.
TRAINING_STEPS = 1000

# Highest step size of the Adam optimiser.
LEARNING_RATE = 0.002

# "cosine" raises the step size over the first twentieth of training (warm-up: first steps from random weights are
# rough) and lowers it to zero along a cosine; "constant" leaves it as it is, as the course does.
LEARNING_RATE_SCHEDULE = "cosine"

# Steps between two checkpoints, which are also when the validation EER is measured.
SAVE_MODEL_FREQUENCY = 100

# Training speakers set aside to measure the validation EER; a fifth of all speakers at most, and 0 for no validation.
NUM_VALIDATION_SPEAKERS = 24

# Shift each training crop's MFCCs by a random channel, as another microphone and room would, so that the encoder does
# not recognise speakers by these. The unit is the standard deviation of each coefficient; 0 for none.
CHANNEL_AUGMENTATION = 0.1

# Make each training crop louder or softer by a random gain, as the distance to a microphone does, so that the encoder
# does not recognise speakers by their level. Standard deviation of the gain in decibels; 0 for none.
GAIN_AUGMENTATION_DB = 3.0

# Share of the batches that are disturbed; the others stay clean, because a clean recording shows more of the voice.
DISTURBED_BATCHES = 0.5

# Probabilities that a crop of a disturbed batch gets the echo of a room, noise, and the narrow band of telephones and
# codecs.
ROOM_PROB = 0.25
NOISE_PROB = 0.4
NARROW_BAND_PROB = 0.3

# Folder with noise recordings, <kind>/**/<audio file>, for a part of the noise; "" uses only voices and coloured noise.
NOISE_DIR = ""

# CSV file of recordings of the training speakers that are disturbed already, such as the copies that
# experiments/disturbed_copies.py makes: half of the disturbed batches are drawn from them, as they are. "" for none.
DISTURBED_DATA_CSV = ""

# Lowest and highest signal-to-noise ratio of noisy crops, in decibels.
NOISE_SNR_DB = (0.0, 20.0)

# Mask random coefficients and frames of the training crops (SpecAugment).
SPECAUG_TRAINING = False

# Probability that a crop gets a mask over neighbouring coefficients, and over neighbouring frames.
SPECAUG_FREQ_MASK_PROB = 0.3
SPECAUG_TIME_MASK_PROB = 0.3

# Widest mask, in coefficients and in frames.
SPECAUG_FREQ_MASK_MAX_WIDTH = 8
SPECAUG_TIME_MASK_MAX_WIDTH = 20

# ------------------------------------- Evaluation -------------------------------------

# Which trials to score: "triplets" draws NUM_EVAL_TRIPLETS of them, "all_pairs" takes every pair of test utterances;
# anything else is the path of a trial list with lines `label enrol_path test_path`.
EVAL_TRIALS = "triplets"

# Number of triplets; each gives one target and one non-target trial.
NUM_EVAL_TRIPLETS = 10000

# Recordings that stand for a speaker in each trial: the score is the similarity to the mean of their embeddings. With
# EVAL_TRIALS="all_pairs", each speaker's recordings are divided into groups of so many. A trial list has one for each.
EVAL_ENROL_UTTS = 1

# Normalise scores, as `speaker_id.py` does: what strangers would score with such recordings is subtracted, by their
# similarity to the nearest training speakers and their lengths (see `scoring/score_normalization.py`), so that one
# threshold suits many kinds of recordings; if False, a score is a cosine similarity.
AS_NORM = False

# What the names of speakers begin with whose embeddings no model keeps for AS_NORM, with commas between several: "cv-"
# for names like cv-0012.
NO_COHORT_CORPORA = ""

# Embed each utterance in one piece; if False, as the mean over sliding windows of SEQ_LEN frames.
USE_FULL_SEQUENCE_INFERENCE = True

# Frames from one sliding window to the next.
SLIDING_WINDOW_STEP = 50

# Step of the course's coarse threshold sweep; 0 tries every distinct score instead, which is exact and faster.
EVAL_THRESHOLD_STEP = 0.0

# Folder for scores.txt, results.json and the plots.
RESULTS_DIR = "results"

# Folder for changed copies of recordings: those of the test data by experiments/conditions.py, cut short, noisy, and by
# telephone, and those of the training data by experiments/disturbed_copies.py.
CONDITIONS_DIR = "data/conditions"

# Folder with noise for experiments/conditions.py, <kind>/**/<audio file>, not of the kinds in NOISE_DIR; "" for none.
TEST_NOISE_DIR = ""

# --------------------------------------- Machine --------------------------------------

# Number of threads that decode files, or compute parts of a batch, at the same time.
NUM_PROCESSES = os.cpu_count() or 1

# "auto" takes an NVIDIA GPU if there is one, else an Apple GPU, else the CPU, and neural_net.py puts its name here; or
# "cuda", "mps", "cpu".
DEVICE = "auto"

# Train in bfloat16 where the processor has instructions for it: numbers of half the size, precise to 8 bits, which are
# multiplied about twice as fast. Weights and loss stay in float32.
MIXED_PRECISION = True

# Seed of everything random: the same seed on the same machine gives the same result.
SEED = 0
