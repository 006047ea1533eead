"""Tests of `foundation/parallel.py`."""

import os
import subprocess
import sys
import unittest

import numpy as np
import torch

import dataset
import feature_extraction
import feature_store
import myconfig
import neural_net
from encoder import inference, networks
from foundation import settings
from unit_tests.shared import PROJECT_DIR, TIMEOUT_SECONDS, ProjectTest, corpus


class ParallelTest(ProjectTest):
    def gradients_of_one_process(self, encoder: neural_net.SpeakerEncoder, crops: torch.Tensor) -> list[torch.Tensor]:
        """Of the loss of a batch (speakers, utterances, frames, N_MFCC), without any threads of ours."""
        losses = neural_net.get_triplet_losses(
            encoder(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]), settings.present()
        )
        return list(torch.autograd.grad(losses.mean(), list(encoder.parameters())))

    def test_threads_give_the_gradient_of_the_whole_batch(self) -> None:
        crops = torch.randn(11, 5, 7, myconfig.N_MFCC)
        for shape in ({}, {"LSTM_LAYER_NORM": True, "TDNN_CHANNELS": 32}):
            with settings.override(**shape, MIXED_PRECISION=False):
                encoder = networks.new_encoder()
                expected = self.gradients_of_one_process(encoder, crops)
                for num_threads in (1, 2, 5):
                    with settings.override(NUM_PROCESSES=num_threads):
                        encoder.zero_grad()
                        config = settings.present()
                        embeddings = neural_net.embed_batch(encoder, crops, config)
                        neural_net.get_triplet_losses(embeddings, config).mean().backward()
                    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
                        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=2e-6)

    def run_two_processes(self, *command: str) -> str:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *command, *self.typed]
        launcher += [f"FEATURE_STORE_DIR={self.dir / 'features'}"]
        answer = subprocess.run(launcher, cwd=self.dir, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return answer.stdout

    @unittest.skipIf(os.name == "nt", "PyTorch for Windows may come without what torchrun needs")
    def test_two_processes_train_one_model_by_the_gradient_of_the_joint_batch(self) -> None:
        (self.dir / "rank.py").write_text(
            f"""
import sys; sys.path.insert(0, {str(PROJECT_DIR)!r})
import os, torch, dataset, feature_store, myconfig, neural_net
from encoder import inference
from foundation import parallel, processes, settings
from training import batches
from training import data as training_data
settings.read_command_line("A test.")
with parallel.process_group(myconfig.DEVICE):
    data = dataset.get_spk_to_utts("TRAIN")
    store = feature_store.open_store(data)
    torch.manual_seed(0)
    encoder = neural_net.get_speaker_encoder()
    with torch.no_grad():
        encoder.lstms[0].bias_ih_l0 += processes.rank()  # Rank 0's weights must come to hold.
    network = parallel.replicate(encoder)
    config = settings.present(MIXED_PRECISION=False)
    crops = batches.draw_batch(encoder, training_data.Stores(store), 3, config)
    losses = neural_net.get_triplet_losses(parallel.gather(neural_net.embed_batch(network, crops, config)), config)
    (losses.mean() * processes.world_size()).backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    embeddings = torch.from_numpy(inference.embed_store(encoder, store))
    losses_of_training = neural_net.train_network(data, 2, myconfig.SAVED_MODEL_PATH)
    torch.save([crops, gradients, embeddings, losses, losses_of_training], f"{{processes.rank()}}.pt")
os._exit(0)  # As scripts do: see `script.run`.
""",
            encoding="utf-8",
        )
        self.run_two_processes("rank.py")
        ranks = [torch.load(self.dir / f"{rank}.pt") for rank in (0, 1)]
        output = self.run_two_processes(str(PROJECT_DIR / "neural_net.py"), "TRAINING_STEPS=4")
        for line in ("Continuing after step 2.", "Step 4: loss", f"{myconfig.SAVED_MODEL_PATH} is the "):
            self.assertEqual(output.count(line), 1)
        with settings.override(MIXED_PRECISION=False, FEATURE_STORE_DIR=str(self.dir / "features")):
            torch.manual_seed(0)
            encoder = neural_net.get_speaker_encoder()
            store = feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(corpus() / "train")))
            expected = self.gradients_of_one_process(encoder, torch.cat([crops for crops, *_ in ranks]))
            expected_embeddings = inference.embed_store(encoder, store)
        crops_of_rank = [crops.flatten(0, 1).flatten(1) for crops, *_ in ranks]
        self.assertTrue((torch.cdist(*crops_of_rank) > 0).all(), "the processes draw different crops")
        self.assertEqual(ranks[0][4], ranks[1][4])
        losses_of_all_steps = torch.load(self.dir / "model.last.pt", weights_only=True)["losses"]
        self.assertEqual(len(losses_of_all_steps), 4)
        self.assertEqual(losses_of_all_steps[:2], ranks[0][4])
        for utt in range(0, len(store.files), 7):
            expected_features = feature_extraction.extract_features(store.files[utt])
            np.testing.assert_allclose(store.read(utt), expected_features, rtol=1e-3, atol=1e-3)
        for _, gradients, embeddings, losses, _ in ranks:
            for gradient, reference in zip(gradients, expected, strict=True):
                torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(embeddings, torch.from_numpy(expected_embeddings))
            self.assertEqual(len(losses), myconfig.BATCH_SIZE * myconfig.UTTERANCES_PER_SPEAKER)
