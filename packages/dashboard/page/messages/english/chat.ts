/** What a question may have. */
interface Limits {
  readonly most: string;
  readonly size: string;
  readonly videoSize: string;
  /** A chosen model that reads no videos. */
  readonly model: string;
}

/** Words of the chat, in English. */
export const chat = {
  title: 'Chat',
  clear: 'New conversation',
  models: 'Models',
  model: 'Model',
  left: 'Left',
  right: 'Right',
  compare: 'Ask two models side by side',
  loaded: 'In memory',
  state: 'State',
  states: { loading: 'loading', ready: 'ready', ended: 'ended' },
  base: 'Base',
  dtype: 'Type',
  checkpointDtype: "the checkpoint's",
  memory: 'Memory of its process',
  free: 'Free',
  remove: 'Remove',
  reload: 'Load again',
  picker: {
    none: 'none',
    load: 'Load',
    chooseRun: 'A run…',
    named: 'A model by folder or name',
    namedLabel: 'Folder or name of a model',
    part: 'Checkpoint',
    result: 'result of the run',
    step: (step: string) => `step ${step}`,
    base: (name: string) => `its base, ${name}`,
    dtype: 'Type to compute in',
    ownDtype: "type: the checkpoint's",
    button: 'Load',
  },
  sampling: {
    title: 'Sampling',
    own: "the checkpoint's",
    system: 'System',
  },
  turn: (number: string) => `Question ${number}`,
  picture: (number: string, name: string) => `Picture ${number}: ${name}`,
  video: (number: string, name: string, size: string) => `Video ${number}: ${name}, ${size}`,
  leftVideos: 'The videos of the record are left out: add their files.',
  edit: 'Edit',
  again: 'Ask again',
  differences: 'Show differences',
  reference: 'The data answer:',
  writing: 'Writing…',
  stopped: 'Stopped.',
  answered: 'The answer is complete.',
  lengthEnd: 'Ended at the largest length.',
  promptTokens: (count: string) => `${count} prompt tokens`,
  cached: (count: string) => `${count} of them reused`,
  answerTokens: (count: string) => `${count} tokens`,
  first: (seconds: string) => `first after ${seconds}`,
  speed: (rate: string) => `${rate} tokens/s`,
  composer: {
    title: 'Your question',
    question: 'Question',
    hint: 'Enter sends, Shift+Enter begins a line. Pictures and videos can be dropped and pasted; ⟨1⟩ in the text is the place of the first.',
    noModel: 'Load a model first.',
    loading: 'The model is being loaded.',
    ended: 'The process of a chosen model ended. Load it again.',
    send: 'Send',
    stop: 'Stop',
    pictures: 'Add pictures or videos',
    noVideos: (model: string) => `${model} reads no videos: remove the video, or choose MiniCPM-V 4.5, 4.6 or 4.7.`,
    remove: (name: string) => `Remove ${name}`,
    data: 'A record of opened data',
    record: 'Record number',
    takeRecord: 'Take its question',
    curl: 'Copy as curl',
    python: 'Copy as openai',
    refused: {
      type: (name: string, _limits: Limits) =>
        `${name} is no picture or video of a known kind (PNG, JPEG, WebP, GIF, BMP; MP4, MOV, WebM, MKV, AVI, MPEG, OGG).`,
      size: (name: string, { size }: Limits) => `${name} is larger than ${size}.`,
      videoSize: (name: string, { videoSize }: Limits) => `${name} is larger than ${videoSize}.`,
      videos: (name: string, { model }: Limits) => `${name} is a video, and ${model} reads no videos.`,
      count: (name: string, { most }: Limits) =>
        `${name} is left out: a question has at most ${most} pictures and videos.`,
    },
  },
};
