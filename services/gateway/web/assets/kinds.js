// The kinds of diagram, their names and small pictures, and prompts to start from.

/** In the order of the picker; `id` is the API's diagramType. Paths: see dom.js `drawing`. */
export const KINDS = [
  { id: "mermaid", name: "Best fit", title: "Whatever kind fits the words best", paths: ["M10.500 4l1.800 5.200L17.500 11l-5.200 1.800-1.800 5.200-1.800-5.200L3.500 11l5.200-1.800z", "M18.500 14.500l.9 2.600 2.600.9-2.600.9-.9 2.600-.9-2.600-2.600-.9 2.600-.9z"] },
  { id: "flowchart", name: "Flow", title: "Flowchart", paths: ["M8 2.500h8v4.500H8z", "M12 7v2.500", "M12 9.500l4 3.250-4 3.250-4-3.250z", "M8 12.750H4.500v4", "M16 12.750h3.500v4", "*M2.500 16.750h4v4.500h-4z", "M17.500 16.750h4v4.500h-4z"] },
  { id: "sequence", name: "Sequence", title: "Sequence diagram", paths: ["*M3.500 2.500h6v4h-6z", "M14.500 2.500h6v4h-6z", "M6.500 6.500v15", "M17.500 6.500v15", "M6.500 11h10.500", "M14.500 8.800L17 11l-2.500 2.200", "M17.500 17H7", "M9.500 14.800L7 17l2.500 2.200"] },
  { id: "class", name: "Class", title: "Class diagram", paths: ["M4 3.500h16v17H4z", "*M4 3.500h16V8H4z", "M4 14h16", "M7 11h7", "M7 17.200h5"] },
  { id: "state", name: "State", title: "State diagram", paths: ["*M5 2.800a2 2 0 1 0 .01 0z", "M5 6.800v3.200", "M3.500 10h9a2 2 0 0 1 2 2v1.500a2 2 0 0 1-2 2h-7.500a2 2 0 0 1-2-2V10z", "M14.500 12.750h2.500a2 2 0 0 1 2 2v1.500", "M19 16.250a2.700 2.700 0 1 0 .01 0z", "*M19 17.700a1.200 1.200 0 1 0 .01 0z"] },
  { id: "er", name: "Entities", title: "Entity relationship diagram", paths: ["*M2.500 3.500h8v6h-8z", "M13.500 14.500h8v6h-8z", "M10.500 6.500h7v8", "M15.500 14.500l2-3 2 3", "M6.500 9.500v8h7"] },
  { id: "gantt", name: "Gantt", title: "Gantt chart", paths: ["M3.500 3v18h17.500", "*M6 5h7v3H6z", "M9.500 10.500h8v3h-8z", "*M14 16h6v3h-6z"] },
  { id: "mindmap", name: "Mind map", title: "Mind map", paths: ["*M12 9a3 3 0 1 0 .01 0z", "M9.500 10.500L6 7.500", "M14.500 10.500L18 7.500", "M9.500 13.800L6.200 17", "M14.500 13.800l3.300 3.200", "M4.500 4.200a2 2 0 1 0 .01 0z", "M19.500 4.200a2 2 0 1 0 .01 0z", "M4.800 16.500a2 2 0 1 0 .01 0z", "M19.200 16.500a2 2 0 1 0 .01 0z"] },
  { id: "pie", name: "Pie", title: "Pie chart", paths: ["M11 4.500a8 8 0 1 0 8.500 8.500H11z", "*M14 2.500a7.500 7.500 0 0 1 7.500 7.500H14z"] },
  { id: "journey", name: "Journey", title: "User journey", paths: ["M4.500 15.500l5-5 5 4 5-8", "*M4.500 14a1.700 1.700 0 1 0 .01 0z", "*M9.500 8.800a1.700 1.700 0 1 0 .01 0z", "*M14.500 12.800a1.700 1.700 0 1 0 .01 0z", "*M19.500 4.800a1.700 1.700 0 1 0 .01 0z", "M3 20.500h18"] },
  { id: "timeline", name: "Timeline", title: "Timeline", paths: ["M2.500 12h19", "*M6 10a2 2 0 1 0 .01 0z", "*M18 10a2 2 0 1 0 .01 0z", "M12 10a2 2 0 1 0 .01 0z", "M6 10V4.500h5", "M12 14v5.500h5", "M18 10V6"] },
  { id: "quadrant", name: "Quadrant", title: "Quadrant chart", paths: ["M3.500 3.500h17v17h-17z", "M12 3.500v17", "M3.500 12h17", "*M16.500 6.500a1.500 1.500 0 1 0 .01 0z", "*M7.500 7.500a1.200 1.200 0 1 0 .01 0z", "*M15 14.800a1.200 1.200 0 1 0 .01 0z"] },
  { id: "gitgraph", name: "Git", title: "Git graph", paths: ["M6 7v10", "M8.300 18.500c5 0 7.700-2.500 7.700-7.500V9", "*M6 2.700a2.200 2.200 0 1 0 .01 0z", "M6 16.800a2.200 2.200 0 1 0 .01 0z", "*M16 4.700a2.200 2.200 0 1 0 .01 0z"] },
  { id: "c4", name: "C4", title: "C4 architecture diagram", paths: ["*M7 2.500a2.500 2.500 0 1 0 .01 0z", "M2.800 13v-1.500a3 3 0 0 1 3-3h2.400a3 3 0 0 1 3 3V13z", "M13 13.500h8.500v7.500H13z", "M7 15.500v2h6", "M15.500 16.500h3.500"] },
  { id: "block", name: "Blocks", title: "Block diagram", paths: ["*M3 3.500h8v7H3z", "M13 3.500h8v7h-8z", "M3 13h18v7.500H3z"] },
  { id: "architecture", name: "Services", title: "Architecture diagram", paths: ["M7 9.500a3.200 3.200 0 0 1 .4-6.300 4.600 4.600 0 0 1 8.700 1A2.700 2.700 0 0 1 16 9.500z", "M12 9.500v4.500", "M6 16.500V14h12v2.500", "*M3.500 16.500h5v4.500h-5z", "M15.500 16.500h5v4.500h-5z"] },
  { id: "sankey", name: "Sankey", title: "Sankey diagram", paths: ["*M3 4h2.500v7H3z", "*M3 14h2.500v6H3z", "*M18.500 4H21v5h-2.500z", "*M18.500 12H21v8h-2.500z", "M5.500 7.500c6 0 7-1 13-1", "M5.500 9.500c6 0 7 4.500 13 4.500", "M5.500 17h13"] },
];

/** The kind of that id; what is not known is drawn as the best fit. */
export const kindOf = (id) => KINDS.find((kind) => kind.id === id) ?? KINDS[0];

export const EXAMPLES = [
  { kind: "mermaid", prompt: "How an online order gets from the basket to the doorstep, and what happens when the payment fails" },
  { kind: "sequence", prompt: "A browser logs in through an identity provider and calls an API, with the token refreshed once" },
  { kind: "gantt", prompt: "A six-week plan to launch a podcast: research, recording, editing, artwork, release" },
];
