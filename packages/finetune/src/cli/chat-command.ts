/** `minicpm-finetune chat`. */

import { CHAT_FLAGS, CHAT_TEXT, resolveChatOptions } from './chat-flags.js';
import type { CliCommand } from './cli-command.js';
import { EXIT } from './exit.js';

export const chatCommand: CliCommand = {
  text: CHAT_TEXT,
  flags: CHAT_FLAGS,
  async run(given) {
    const options = resolveChatOptions(given);
    // @ts-expect-error
    const { chat } = await import('../chat.js');
    await chat(options);
    return EXIT.ok;
  },
};
