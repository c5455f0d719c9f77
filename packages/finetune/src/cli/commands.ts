/** The list of commands, in the order of the help. A new command is one line here. */
import { benchCommand } from './bench/command.js';
import { chatCommand } from './chat/command.js';
import { checkDataCommand } from './check-data/command.js';
import type { CliCommand } from './cli-command.js';
import { doctorCommand } from './doctor/command.js';
import { downloadCommand } from './download/command.js';
import { estimateCommand } from './estimate/command.js';
import { exportCommand } from './export/command.js';
import { generateCommand } from './generate/command.js';
import { mergeCommand } from './merge/command.js';
import { renderCommand } from './render/command.js';
import { serveCommand } from './serve/command.js';
import { trainCommand } from './train/command.js';
import { uiCommand } from './ui/command.js';

export const COMMANDS: readonly CliCommand[] = [
  trainCommand,
  uiCommand,
  chatCommand,
  generateCommand,
  mergeCommand,
  exportCommand,
  serveCommand,
  checkDataCommand,
  renderCommand,
  downloadCommand,
  doctorCommand,
  benchCommand,
  estimateCommand,
];
