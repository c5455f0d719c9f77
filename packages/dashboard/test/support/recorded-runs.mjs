/**
 * Run folders for tests, as the trainer leaves them: one finished, one resumed twice, one with a step that is not finite, one killed, one of
 * preference tuning; and a live one to which a test appends. Events have the fields of the trainer's, numbers follow from the step alone.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import {
  CONFIG_FLAGS,
  contentOfFile,
  DERIVED_FLAGS,
  derivedValue,
  EventWriter,
  OwnFiles,
  thisProcess,
} from '@minicpm-finetune/run';
import sharp from 'sharp';

const BEGAN = Date.parse('2026-11-20T08:00:00.000Z');
/** No process has this id. */
const GONE = 999_999_999;
const QUESTIONS = [
  ['What is the total?', '42.50', 'The total is 42.50.'],
  ['Which number is this?', '7', '1'],
  ['Read the table.', '<b>a</b> | b\n1 | 2', '<b>a</b> | b\n1 | 3'],
  ['图片里写的是什么？', '发票 2026-11', '发票 2026-11'],
];

/** A receipt, and a wide sheet with a number. */
const PICTURES = [
  {
    size: [320, 240],
    draw:
      '<rect width="320" height="240" fill="#f4f1ea"/><g font-size="22" fill="#222"><text x="24" y="52">Coffee</text>' +
      '<text x="220" y="52">12.50</text><text x="24" y="92">Lunch</text><text x="220" y="92">30.00</text></g>' +
      '<path d="M24 124H296" stroke="#222" stroke-width="2"/>' +
      '<g font-size="28" font-weight="700" fill="#111"><text x="24" y="176">Total</text><text x="200" y="176">42.50</text></g>',
  },
  {
    size: [1200, 500],
    draw:
      '<rect width="1200" height="500" fill="#e8eef5"/><path d="M60 90H1140M60 410H1140" stroke="#9fb3c8" stroke-width="4"/>' +
      '<text x="600" y="350" font-size="300" font-weight="700" text-anchor="middle" fill="#1c3144">7</text>',
  },
];

/** Every flag at its default, or as it follows from others, and the changed ones. */
function configOf(changes) {
  const tables = Object.entries(CONFIG_FLAGS);
  const specs = tables.flatMap(([, table]) => Object.entries(table));
  const values = new Map(specs.map(([name, spec]) => [name, changes[name] ?? spec.default ?? null]));
  for (const name of DERIVED_FLAGS)
    if (changes[name] === undefined) values.set(name, derivedValue(name, values)?.value ?? values.get(name));
  return Object.fromEntries(
    tables.map(([group, table]) => [
      group,
      Object.fromEntries(Object.keys(table).map((name) => [name, values.get(name)])),
    ]),
  );
}

/** One run folder. Its methods append what a trainer would, in the order of the calls. */
export class RecordedRun {
  #writer;
  #time = BEGAN;
  #config = null;
  #own;

  constructor(folder) {
    mkdirSync(folder, { recursive: true });
    this.folder = folder;
    this.step = 0;
    this.#own = new OwnFiles(folder);
    this.#own.open();
    this.#own.noteGrowing('events.jsonl');
    this.#writer = new EventWriter(join(folder, 'events.jsonl'));
  }

  /** Seconds go by. */
  wait(seconds) {
    this.#time += 1000 * seconds;
    return this;
  }

  /** From now on events have the time of the clock. */
  now() {
    this.#time = Date.now();
    return this;
  }

  event(event) {
    this.#writer.write(event, new Date(this.#time));
    return this;
  }

  start({ changes = {}, totalSteps, resumedAtStep = 0, process: of = {}, extra = {} }) {
    const config = { ...configOf({ output_dir: this.folder, ...changes }), ...extra };
    if (this.#config === null) {
      writeFileSync(join(this.folder, 'run.json'), `${JSON.stringify(config, null, 2)}\n`);
      this.#own.note('run.json');
      this.#own.begin();
    }
    this.#config = config;
    this.step = resumedAtStep;
    const { pid = GONE, start = '1', host = hostname() } = of;
    return this.event({
      event: 'run_start',
      versions: { minicpm_finetune: '0.1.0', node: '20.20.2', libtorch: '2.13.0' },
      config,
      notices: ['eval_steps has no effect: eval_strategy is no.'],
      derived: [
        `steps per epoch = ceil(${totalSteps * 8} / (2 × 4)) = ${totalSteps}`,
        `total steps = ceil(1 × ${totalSteps}) = ${totalSteps}`,
      ],
      total_steps: totalSteps,
      train_samples: totalSteps * 8,
      eval_samples: QUESTIONS.length,
      trainable_parameters: 5_242_880,
      total_parameters: 3_407_872_000,
      world_size: 1,
      device: 'cpu',
      resumed_at_step: resumedAtStep,
      pid,
      process_start: start,
      hostname: host,
      cwd: '/work',
      command: ['node', 'minicpm-finetune', 'train', '--output_dir', this.folder],
    }).event({ event: 'phase', name: 'training', step: this.step });
  }

  /** Logs steps up to `last`, every `every`. */
  steps(last, { every = 5, fields = () => ({}) } = {}) {
    const { learning_rate: rate = 1e-5 } = this.#config.optimizer;
    while (this.step < last) {
      this.step += every;
      const { step } = this;
      const wave = Math.sin(step * 1.7) * 0.15 + Math.sin(step * 0.31) * 0.1;
      const seconds = 0.4 + 0.05 * Math.cos(step);
      this.wait(seconds * every).event({
        event: 'step',
        step,
        epoch: Math.round((step / 75) * 10_000) / 10_000,
        loss: 2.5 * Math.exp(-step / 60) + 0.4 + wave,
        grad_norm: 1.5 + wave * 4,
        learning_rate: rate * (1 - step / 1000),
        step_seconds: seconds,
        samples_per_s: 8 / seconds,
        tokens_per_s: 2048 / seconds,
        supervised_tokens_per_s: 300 / seconds,
        world_size: 1,
        data_wait_share: 0.02 + wave / 20,
        memory: { rss: 4_000_000_000 + step * 1_000_000, tensors: 321 },
        eta_seconds: Math.max(0, (last - step) * seconds),
        ...fields(step),
      });
      if (step % 25 === 0) this.system();
    }
    return this;
  }

  system() {
    return this.event({
      event: 'system',
      cpu_percent: 190 + Math.sin(this.step) * 8,
      rss: 4_000_000_000 + this.step * 1_000_000,
      available: 9_000_000_000 - this.step * 1_000_000,
      threads: 2,
      disk_free: 120_000_000_000,
    });
  }

  memoryPlan() {
    return this.event({
      event: 'memory_plan',
      budget: 8_000_000_000,
      baseline: 5_100_000_000,
      kept: 1_200_000_000,
      by: {
        weights: 2_240_000_000,
        gradients: 640_000_000,
        optimizer: 1_280_000_000,
        activations: 820_000_000,
        vision_cache: 60_000_000,
        other: 60_000_000,
      },
    });
  }

  /** An evaluation with answers to fixed records and their pictures. */
  async evaluate(metrics = {}) {
    const { step } = this;
    const images = await this.#pictures();
    const correct = Math.min(QUESTIONS.length, Math.floor(step / 60));
    const lines = QUESTIONS.map(([question, reference, wrong], record) => {
      const answer = record < correct ? reference : wrong;
      const same = answer === reference ? 1 : 0;
      const score = { exact_match: same, anls: same || 0.5, rouge_l: same || 0.4 };
      const own = record === 2 ? images : [images[record % 2]];
      return {
        record: record * 10,
        id: `record-${record}`,
        question,
        reference,
        answer,
        tokens: answer.length,
        end: record === 1 && step < 100 ? 'length' : 'stop',
        ...score,
        content: { text: `${record}`, images: own },
        images: own.map((name) => `../images/${name}`),
      };
    });
    const mean = (name) => lines.reduce((sum, line) => sum + line[name], 0) / lines.length;
    const file = `eval/step-${step}/answers.jsonl`;
    this.#own.put(file, (path) => writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join('')));
    this.event({ event: 'phase', name: 'evaluating', step }).wait(3);
    return this.event({
      event: 'eval',
      step,
      epoch: step / 75,
      loss: 2.2 * Math.exp(-step / 70) + 0.5 + (step > 200 ? (step - 200) / 800 : 0),
      metrics: { exact_match: mean('exact_match'), anls: mean('anls'), rouge_l: mean('rouge_l'), ...metrics },
      samples: QUESTIONS.length,
      seconds: 3,
      samples_per_s: QUESTIONS.length / 3,
      answers_file: file,
    }).event({ event: 'phase', name: 'training', step });
  }

  /** Two pictures that show what the records ask for. */
  async #pictures() {
    const names = [];
    for (const [k, { size, draw }] of PICTURES.entries()) {
      const [width, height] = size;
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif">${draw}</svg>`;
      const png = await sharp(Buffer.from(svg)).png().toBuffer();
      const name = `${1000 + k}-${width}.png`;
      names.push(name);
      if (this.#own.ownership(`eval/images/${name}`) === 'absent')
        this.#own.put(`eval/images/${name}`, (path) => writeFileSync(path, png));
    }
    return names;
  }

  checkpoint(reason = 'interval') {
    const { step } = this;
    const name = `checkpoint-${step}`;
    const folder = join(this.folder, name);
    mkdirSync(folder);
    const contents = {
      'adapter_model.safetensors': `weights of step ${step}`.repeat(40),
      'adapter_config.json': '{}\n',
      'optimizer.safetensors': `moments of step ${step}`.repeat(80),
      'rng_state.safetensors': `random state of step ${step}`,
      'trainer_state.json': `${JSON.stringify({ global_step: step, best_model_checkpoint: null })}\n`,
      'run.json': `${JSON.stringify(this.#config)}\n`,
    };
    for (const [file, text] of Object.entries(contents)) writeFileSync(join(folder, file), text);
    const files = Object.keys(contents).map((file) => ({ name: file, ...contentOfFile(join(folder, file)) }));
    writeFileSync(join(folder, 'manifest.json'), `${JSON.stringify({ step, files }, null, 2)}\n`);
    this.#own.noteFolder(name);
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    return this.wait(1).event({ event: 'checkpoint', step, path: name, bytes, seconds: 0.8, reason, removed: [] });
  }

  stop(reason = 'stop_file') {
    return this.event({ event: 'stop', reason, step: this.step });
  }

  end(status = 'finished', fields = {}) {
    const { step } = this;
    this.event({ event: 'run_end', status, step, train_loss: 0.8, seconds: step * 0.4, ...fields });
    return this.close();
  }

  /** Without a last event: as after kill -9. */
  close() {
    this.#writer.close();
    return this;
  }
}

const LORA = { use_lora: true, lora_r: 16, lora_alpha: 32, tune_vision: false, tune_llm: false, learning_rate: 0.0002 };
const EVALUATED = { eval_strategy: 'steps', eval_steps: 60, eval_generate: 4, logging_steps: 5 };

async function finished(folder) {
  const changes = { model_name_or_path: 'openbmb/MiniCPM-V-2_6', run_name: 'digits', max_steps: 240, ...EVALUATED };
  const run = new RecordedRun(folder).start({ changes, totalSteps: 240 }).steps(10).memoryPlan();
  for (const last of [60, 120, 180, 240]) {
    await run.steps(last).evaluate();
    if (last % 120 === 0) run.checkpoint();
  }
  run.event({ event: 'warning', kind: 'bad_record', message: 'Record 12 of train.json has no picture.', record: 12 });
  writeFileSync(join(folder, 'model.safetensors'), 'the trained weights');
  new OwnFiles(folder).note('model.safetensors');
  run.end('finished', { output: '.' });
}

async function resumedTwice(folder) {
  const changes = { model_name_or_path: 'openbmb/MiniCPM-V-4', ...LORA, ...EVALUATED };
  const run = new RecordedRun(folder).start({ changes, totalSteps: 200 }).steps(60);
  await run.evaluate();
  run.checkpoint().steps(85); // killed
  run
    .wait(3600)
    .start({ changes, totalSteps: 200, resumedAtStep: 60 })
    .steps(120, { fields: () => ({ grad_norm: 1 }) });
  await run.evaluate();
  run.checkpoint('stop').stop().event({ event: 'run_end', status: 'stopped', step: 120, seconds: 30 });
  run.wait(7200).start({ changes, totalSteps: 200, resumedAtStep: 120 }).steps(180);
  await run.evaluate();
  run.steps(200).checkpoint().end('finished', { output: '.' });
}

function notFinite(folder) {
  const changes = { model_name_or_path: 'openbmb/MiniCPM-V-2', dtype: 'float16', learning_rate: 0.01 };
  const lost = (step) => ({
    loss_scale: 65_536 / (step > 30 ? 2 : 1),
    ...(step === 35 ? { loss: null, grad_norm: null } : {}),
  });
  const run = new RecordedRun(folder).start({ changes, totalSteps: 100 }).steps(35, { fields: lost });
  const place = join(folder, 'nonfinite', 'step-35');
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, 'records.json'), '[3, 7]\n');
  run.event({
    event: 'warning',
    kind: 'nonfinite',
    message: 'The loss of step 35 is not finite.',
    step: 35,
    file: place,
  });
  run.steps(50, { fields: lost });
  run.event({ event: 'stop', reason: 'nonfinite', step: 50 });
  run.end('failed', { error: 'The loss was not finite 5 times in a row. See nonfinite/step-35.' });
}

function killed(folder) {
  const changes = { model_name_or_path: 'openbmb/MiniCPM-V-2_6', ...LORA, q_lora: true, lora_r: 64 };
  new RecordedRun(folder).start({ changes, totalSteps: 500 }).steps(100).checkpoint().steps(130).close();
}

function preference(folder) {
  const changes = { model_name_or_path: 'openbmb/MiniCPM-V-2_6', ...LORA, learning_rate: 0.00001 };
  const fields = (step) => ({
    preference: {
      'rewards/chosen': -0.002 * step,
      'rewards/rejected': -0.01 * step,
      'rewards/margins': 0.008 * step,
      'rewards/accuracies': Math.min(1, 0.5 + step / 200),
      'logps/chosen': -40 - step / 10,
      'logps/rejected': -42 - step / 3,
    },
  });
  const run = new RecordedRun(folder).start({
    changes,
    totalSteps: 100,
    extra: { preference: { preference: 'dpo', beta: 0.1 }, later: { warp: 9 } },
  });
  run.steps(100, { fields }).event({
    event: 'eval',
    step: 100,
    epoch: 1.3333,
    loss: 0.41,
    metrics: { 'rewards/accuracies': 0.9, 'rewards/margins': 0.7 },
    samples: 20,
    seconds: 4,
    samples_per_s: 5,
  });
  run.end('finished', { output: '.' });
}

/** Makes the five runs below `root` and returns their folders by name. */
export async function writeRecordedRuns(root) {
  const folders = Object.fromEntries(
    ['digits', 'invoices', 'nonfinite', 'killed', 'preference'].map((name) => [name, join(root, name)]),
  );
  await finished(folders.digits);
  await resumedTwice(folders.invoices);
  notFinite(folders.nonfinite);
  killed(folders.killed);
  preference(folders.preference);
  return folders;
}

/** A run of this process, so its state is running; the test appends to it (`steps`, `evaluate`, `checkpoint`, `end`). */
export function liveRun(folder, { totalSteps = 1000, changes = {} } = {}) {
  const { pid, start } = thisProcess();
  return new RecordedRun(folder).now().start({
    changes: { model_name_or_path: 'openbmb/MiniCPM-V-2_6', ...changes },
    totalSteps,
    process: { pid, start },
  });
}
