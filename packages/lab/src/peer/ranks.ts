/**
 * `npm run bench:ranks`: measures two ranks beside one. The two have a thread each, the one has two; all take steps of the
 * same two batches, in turn, full under stage 3 and LoRA under stage 2. Prints tokens per second and the share of waits for the other rank. Without
 * `--checkpoint` and `--batches` it makes a model of random weights and batches of noise of a size.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { median } from '@minicpm-finetune/run';
import { noGrad, ops, scope, type Tensor, tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { Command, Option } from 'commander';

const OURS = fileURLToPath(new URL('ours.js', import.meta.url));

/** [hidden, intermediate, layers, heads, key and value heads, vocabulary; vision: hidden, intermediate, layers, heads; queries, answer] */
const SIZES = {
  nano: [128, 256, 2, 4, 2, 1024, 64, 128, 2, 4, 16, 100],
  medium: [1536, 8960, 14, 12, 2, 151_666, 768, 3072, 12, 12, 64, 200],
} as const;
type Size = keyof typeof SIZES;

const ROWS = [
  { name: 'full, stage 3', flags: ['--bf16', '--freeze_vision', '--zero_stage', '3'] },
  {
    name: 'LoRA, stage 2',
    flags: ['--lora', '--bf16', '--freeze_vision', '--modules_to_save', '', '--zero_stage', '2'],
  },
];
const SIDES = [
  { name: '1 rank x 2 threads', flags: ['--ranks', '1', '--threads', '2'] },
  { name: '2 ranks x 1 thread', flags: ['--ranks', '2', '--threads', '1'] },
];

interface Flags {
  checkpoint?: string;
  batches?: string;
  size: Size;
  work: string;
  steps: string;
  rounds: string;
}

interface Figures {
  readonly losses: readonly number[];
  readonly tokens_per_s: number;
  readonly median_step_s: number;
  readonly peak_rss_mib: number;
  readonly parts_s: Readonly<Record<string, number>>;
}

function configOf(size: Size): string {
  const [hidden, ffn, layers, heads, kv, vocab, width, wide, depth, visionHeads, queries] = SIZES[size];
  return JSON.stringify({
    architectures: ['MiniCPMV'],
    version: 2.6,
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kv,
    vocab_size: vocab,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    query_num: queries,
    drop_vision_last_layer: false,
    vision_config: {
      hidden_size: width,
      intermediate_size: wide,
      num_hidden_layers: depth,
      num_attention_heads: visionHeads,
      patch_size: 14,
      image_size: 980,
    },
  });
}

/** Two batches of two records with a picture each, in the layout of `BatchFile`. */
function writeBatches(path: string, size: Size): void {
  const queries = SIZES[size][10];
  const length = queries + 2 + SIZES[size][11];
  scope(() =>
    noGrad(() => {
      const tensors = new Map<string, Tensor>();
      for (const b of [0, 1]) {
        const ids = Array.from({ length: 2 }, (_, s) =>
          Array.from({ length }, (_, i) => 3 + ((b * 977 + s * 499 + i * 31) % 900)),
        );
        const labels = ids.map((row) => row.map((_, i) => (i > queries + 20 && i < length - 1 ? row[i + 1]! : -100)));
        tensors.set(`${b}.input_ids`, tensor(ids, 'int32'));
        tensors.set(`${b}.labels`, tensor(labels, 'int32'));
        tensors.set(
          `${b}.attention_mask`,
          tensor(
            ids.map((row) => row.map(() => 1)),
            'int32',
          ),
        );
        for (const s of [0, 1]) {
          tensors.set(`${b}.${s}.image_bound`, tensor([[1, 1 + queries]], 'int64'));
          tensors.set(`${b}.${s}.tgt_sizes`, tensor([[24, 32]], 'int32'));
          tensors.set(`${b}.${s}.0.pixel_values`, ops.randn([3, 14, 14 * 24 * 32]));
        }
      }
      writeSafetensors(path, tensors);
    }),
  );
}

/** Folder and file as given, or as made before, or made now. */
function inputs({ checkpoint, batches, size, work }: Flags): string[] {
  const folder = checkpoint ?? join(work, `ranks-${size}`);
  const file = batches ?? join(work, `ranks-${size}.safetensors`);
  mkdirSync(work, { recursive: true });
  if (!existsSync(join(folder, 'config.json'))) {
    mkdirSync(folder, { recursive: true });
    const model = createModel(parseConfig(configOf(size), 'config.json'), { seed: 1, dtype: 'bfloat16' });
    saveCheckpoint(model, folder);
    writeFileSync(join(folder, 'config.json'), configOf(size));
    model.dispose();
  }
  if (!existsSync(file)) writeBatches(file, size);
  return ['--checkpoint', folder, '--batches', file];
}

function figures(words: readonly string[]): Figures {
  const { status, stdout, stderr } = spawnSync(process.execPath, [OURS, ...words], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${OURS} ${words.join(' ')} ended with ${status}:\n${stderr}`);
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Figures;
}

/** The share of a step that a rank waits for the other. */
function waiting({ parts_s: parts }: Figures): number {
  const step = Object.values(parts).reduce((sum, seconds) => sum + seconds, 0);
  return (parts.collective ?? 0) / step;
}

const flags = new Command('bench:ranks')
  .option('--checkpoint <dir>', 'folder with config.json and model.safetensors')
  .option('--batches <file>', 'safetensors file with collated batches')
  .addOption(new Option('--size <name>', 'of what is made without them').choices(Object.keys(SIZES)).default('medium'))
  .option('--work <dir>', 'where it is made', '.bench')
  .option('--steps <n>', 'steps of each run; the first does not count', '4')
  .option('--rounds <n>', 'runs of each side, in turn', '3')
  .parse()
  .opts<Flags>();
const common = [...inputs(flags), '--steps', flags.steps, '--micro_batches', '2'];
for (const row of ROWS) {
  const runs: Figures[][] = SIDES.map(() => []);
  for (let round = 0; round < Number(flags.rounds); round++)
    for (const [i, side] of SIDES.entries()) runs[i]!.push(figures([...common, ...row.flags, ...side.flags]));
  const speeds = runs.map((own) => median(own.map((one) => one.tokens_per_s)));
  console.log(row.name);
  for (const [i, side] of SIDES.entries()) {
    const own = runs[i]!;
    const share = (100 * median(own.map(waiting))).toFixed(1);
    const each = own.map((one) => one.tokens_per_s.toFixed(0)).join(', ');
    const seconds = median(own.map((one) => one.median_step_s)).toFixed(3);
    console.log(
      `  ${side.name}: ${speeds[i]!.toFixed(1)} tokens/s (${each}), step ${seconds} s, in collectives ${share} %`,
    );
  }
  const wanted = runs[0]![0]!.losses;
  const differences = runs.flat().flatMap(({ losses }) => losses.map((loss, i) => Math.abs(loss / wanted[i]! - 1)));
  const apart = Math.max(...differences).toExponential(1); // another number of threads adds in another order
  const ratio = (speeds[1]! / speeds[0]!).toFixed(3);
  console.log(`  2 ranks x 1 thread / 1 rank x 2 threads: ${ratio}; losses differ by ${apart} at most`);
}
