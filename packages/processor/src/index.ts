/** The processor: configurations, tokenizers, chats, pictures. Imports no libtorch. */

export { checkRecord } from './chat/check-record.js';
export * from './chat/jinja.js';
export { type ChatMessage, type Part, recordMessages } from './chat/messages.js';
export * from './chat/official.js';
export * from './chat/placeholders.js';
export { strip } from './chat/python.js';
export * from './chat/record.js';
export type { Grid } from './chat/segments.js';
export * from './chat/templates.js';
export { checkPictureNames, foreignPicture } from './chat/text.js';
export * from './checkpoint-folder.js';
export * from './config.js';
export * from './detokenizer.js';
export * from './encode.js';
export { encodeAnswers } from './encode-answers.js';
export * from './image/decode.js';
export * from './image/geometry.js';
export { measureHeader } from './image/header.js';
export * from './image/pictures.js';
export * from './image/resize.js';
export { pictureFromText } from './image/text-picture.js';
export * from './sample.js';
export * from './tokenizer.js';
export * from './versions.js';
