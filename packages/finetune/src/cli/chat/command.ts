/** `minicpm-finetune chat`. */
import { type CliCommand, sayIdle } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';
import { CHAT_FLAGS, CHAT_TEXT, resolveChatOptions } from './flags.js';

export const chatCommand: CliCommand = {
  text: CHAT_TEXT,
  flags: CHAT_FLAGS,
  async run(given, io) {
    const { stdout, stderr } = io;
    sayIdle(given, CHAT_FLAGS, io);
    const asked = resolveChatOptions(given);
    const options = { ...asked, model: await modelFolder(given, CHAT_FLAGS, 'model', io) };
    const { chat } = await import('./chat.js');
    await chat(options, { stdin: process.stdin, stdout, stderr, say: io.say });
    return EXIT.ok;
  },
};
