/** `minicpm-finetune serve`: a server that speaks OpenAI's API. */
import { type CliCommand, sayIdle } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';
import { SERVE_FLAGS } from './flags.js';
import { KEY_VARIABLE, resolveServeOptions } from './options.js';

const STOPPING = 'Stopping: requests under way are ended. Once more ends at once.';

export const serveCommand: CliCommand = {
  text: {
    name: 'serve',
    summary: { en: "Serve a model and its adapters with OpenAI's API.", zh: '以 OpenAI 的 API 提供模型及其适配器。' },
    description: {
      en: [
        'Answers POST /v1/chat/completions with pictures, streamed or whole, for any client that speaks the API of OpenAI.',
        'Requests join and leave a running batch between two tokens; several adapters share one base. docs/serving.md has all fields.',
      ].join('\n'),
      zh: [
        '回答 POST /v1/chat/completions，支持图片和流式输出，适用于任何使用 OpenAI API 的客户端。',
        '请求可以在两个词元之间加入或离开正在运行的批次；多个适配器共用一个基座模型。所有字段见 docs/serving.md。',
      ].join('\n'),
    },
    headings: {
      model: { en: 'Model', zh: '模型' },
      server: { en: 'Server', zh: '服务器' },
      limits: { en: 'Limits', zh: '限制' },
      pictures: { en: 'Pictures', zh: '图片' },
    },
    examples: {
      en: [
        'Examples:',
        '',
        '  A model and an adapter on it, under the names openbmb/MiniCPM-V-2_6 and invoices:',
        '',
        '    minicpm-finetune serve --model openbmb/MiniCPM-V-2_6 --adapter invoices=runs/invoices',
        '',
        '  A question to it:',
        '',
        '    curl 127.0.0.1:8000/v1/chat/completions -H content-type:application/json \\',
        '      -d \'{"messages": [{"role": "user", "content": "Hello"}]}\'',
      ].join('\n'),
      zh: [
        '示例：',
        '',
        '  一个模型和其上的一个适配器，名为 openbmb/MiniCPM-V-2_6 和 invoices：',
        '',
        '    minicpm-finetune serve --model openbmb/MiniCPM-V-2_6 --adapter invoices=runs/invoices',
        '',
        '  向它提问：',
        '',
        '    curl 127.0.0.1:8000/v1/chat/completions -H content-type:application/json \\',
        '      -d \'{"messages": [{"role": "user", "content": "你好"}]}\'',
      ].join('\n'),
    },
  },
  flags: SERVE_FLAGS,
  async run(given, io) {
    const { stdout, stderr, say } = io;
    sayIdle(given, SERVE_FLAGS, io);
    const resolve = resolveServeOptions(given, io.env);
    if (given.has('api_key'))
      stderr.write(
        `${say(`notice: --api_key: other users of this machine can see it; the variable ${KEY_VARIABLE} is not seen.`)}\n`,
      );
    const options = resolve(await modelFolder(given, SERVE_FLAGS, 'model', io));
    const [{ serve }, { ProcessSignals }] = await Promise.all([import('./serve.js'), import('../shared/signals.js')]);
    const signals = new ProcessSignals(say, STOPPING);
    signals.listen();
    try {
      await serve(options, { stdin: process.stdin, stdout, stderr, say, signal: signals.signal });
      return EXIT.ok;
    } finally {
      signals.close();
    }
  },
};
