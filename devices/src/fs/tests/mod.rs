//! Raw FUSE messages at the device over in-memory rings: no guest, no manners.
//!
//! The hostile cases every file server has to hold against, and where they are:
//!
//! | case | tests |
//! |---|---|
//! | 1, 2: names with several components, `..`, empty, too long, with a zero, in every slot of every request | `hostile::names_with_more_than_one_component_are_refused_everywhere`, `both_names_of_a_rename_are_checked`, `names_without_an_end_are_refused`, `name_that_comes_with_a_nameless_file_is_not_used`; not UTF-8: `tree::trees_are_built_and_torn_down` |
//! | 3: `..` of the root and of its children | `hostile::there_is_no_way_up` |
//! | 7: opening FIFOs, sockets, devices | `hostile::only_regular_files_are_opened`, `devices_of_the_host_are_not_opened` |
//! | 8: making devices; FIFOs and sockets are fine | `hostile::device_nodes_cannot_be_made`, `tree::trees_are_built_and_torn_down` |
//! | 10: extended attributes with a meaning to the host | `attribute::other_namespaces_are_neither_written_nor_told`, `what_other_file_servers_believe_cannot_be_forged`, `sizes_that_lie_or_are_too_large_write_nothing` |
//! | 12: foreign and closed handles | `hostile::handles_belong_to_one_node_and_one_kind` |
//! | 12: offsets and sizes past all ends | `hostile::reading_past_all_ends_is_empty_or_an_error`, `writes_that_lie_about_their_size_write_nothing`, `size_of_a_read_costs_no_memory` |
//! | 12: headers that lie, too little room | `hostile::headers_that_lie_about_their_length_are_refused`, `requests_without_room_for_the_answer_change_nothing`, `truncated_bodies_are_refused` |
//! | 12: descriptors that loop, overlap, have no length | the contract suite in `device`; `hostile::request_may_lie_where_its_answer_goes`, `pieces_of_no_length_are_passed_over` |
//! | 13: INIT twice, too old, none at all; unknown requests | `hostile::second_init_begins_anew`, `versions_are_settled_or_refused`, `nothing_is_served_before_init_or_after_destroy`, `unknown_requests_are_told_so`, `interrupt_of_an_unknown_request_is_ignored` |
//! | 15: IOCTL | `hostile::no_ioctl_reaches_the_host` |
//! | 32: errors of the host; shares that are full, gone, or hang | [`failure`], [`waiting`] |
//! | 44: any messages in any order | [`arbitrary`], the fuzz target `fuse_server`, and `tests/fs-reference` beside other servers |

mod arbitrary;
mod attribute;
mod busy;
mod directory;
mod failure;
mod file;
mod guarded;
mod hostile;
mod listener;
mod metadata;
mod owner;
mod read_only;
mod remote;
mod tree;
mod unopened;
mod waiting;
mod watched;

use super::test_kit as guest;
