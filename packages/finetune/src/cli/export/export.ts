/** A model for other programs. The work is minicpm-v's; this is the engine around it. */
import { statSync } from 'node:fs';
import { exportCheckpoint, exportGguf, exportGgufAdapter, exportServedAdapter } from '@minicpm-finetune/minicpm-v';
import { type FloatDType, formatBytes, type Outtype, shownNames } from '@minicpm-finetune/run';
import { startEngine } from '../../engine/machine.js';
import { hashingTask, type Reporter, type Task } from '../../report/reporter.js';
import { adapterServer, llamaCpp, llamaCppAdapter, ollama, servers } from './programs.js';

export interface ExportRequest {
  /** Folder of the checkpoint. */
  readonly model: string;
  /** Adapter folders; each is applied on top of the previous result. */
  readonly adapters: readonly string[];
  /** Folder to make; new or empty. */
  readonly output: string;
  readonly format: 'gguf' | 'safetensors';
  /** Of the language model's matrices in GGUF. */
  readonly outtype: Outtype;
  /** Type of saved safetensors; as stored in the base where null. */
  readonly dtype: FloatDType | null;
  /** The adapter alone, not merged. */
  readonly lora: boolean;
  readonly stripModulesToSave: boolean;
  /** Threads of libtorch; one per physical core where null. */
  readonly threads: number | null;
}

/** What was written, in words. */
export interface ExportResult {
  /** Files and commands. */
  readonly lines: readonly string[];
  readonly notices: readonly string[];
}

/** Exports on the CPU. @throws UserError for what does not fit, or has no form in the format */
export function exportModel(request: ExportRequest, reporter: Reporter): ExportResult {
  startEngine({ device: 'cpu', threads: request.threads });
  using hashing = hashingTask(reporter);
  const { format, lora } = request;
  if (format === 'gguf') return lora ? ggufAdapter(request, hashing.update) : gguf(request, reporter, hashing.update);
  return lora ? servedAdapter(request) : served(request, hashing.update);
}

type OnHash = Parameters<typeof exportGguf>[0]['onHash'] & {};

function gguf({ model, adapters, output, outtype }: ExportRequest, reporter: Reporter, onHash: OnHash): ExportResult {
  let task: Task | undefined;
  try {
    const made = exportGguf({
      model,
      adapters,
      output,
      outtype,
      onHash,
      onProgress: (done, of) => {
        task ??= reporter.task('Exporting', of, 'bytes');
        task.update(done);
      },
    });
    task?.finish(2 * made.bytes);
    const files = [made.model, made.mmproj].filter((path) => path !== null);
    const lines = [
      ...files.map((path) => `${path}: ${formatBytes(statSync(path).size)}, written and read back.`),
      'Run it with llama.cpp:',
      ...llamaCpp(made),
      'Or with Ollama:',
      ...ollama(output, made.modelfile),
    ];
    return { lines, notices: made.notices };
  } finally {
    task?.stop();
  }
}

function ggufAdapter({ model, adapters, output }: ExportRequest, onHash: OnHash): ExportResult {
  const { adapter, notices } = exportGgufAdapter({ model, adapter: adapters[0]!, output, onHash });
  return {
    lines: [
      `${adapter}: ${formatBytes(statSync(adapter).size)}, written and read back.`,
      'Run it with llama.cpp, on the GGUF files of its base:',
      ...llamaCppAdapter(adapter),
    ],
    notices,
  };
}

function served({ model, adapters, output, dtype }: ExportRequest, onHash: OnHash): ExportResult {
  const { tensors, changed, notices } = exportCheckpoint({
    model,
    adapters,
    output,
    onHash,
    ...(dtype === null ? {} : { dtype }),
  });
  return {
    lines: [
      `${tensors} tensors in ${output}, ${changed} of them changed by adapters.`,
      'Run it with vLLM or SGLang:',
      ...servers(output),
    ],
    notices,
  };
}

function servedAdapter({ model, adapters, output, stripModulesToSave }: ExportRequest): ExportResult {
  const [adapter] = adapters as [string];
  const { tensors, stripped } = exportServedAdapter(adapter, output, stripModulesToSave);
  return {
    lines: [`${tensors} tensors of low-rank parts in ${output}.`, 'Run it with vLLM:', ...adapterServer(model, output)],
    notices:
      stripped.length === 0
        ? []
        : [
            `${stripped.length} tensors that were trained whole are left out: ${shownNames(stripped)}. The server's answers are not those of the adapter; without --lora they are.`,
          ],
  };
}
