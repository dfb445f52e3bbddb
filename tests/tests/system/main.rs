//! What the whole system must do, in both engines: see the `system_tests` library for how this runs.

mod answers;
mod attributes;
mod belief;
mod command;
mod death;
mod egress;
mod files;
mod hanging;
mod hostile;
mod library;
mod live;
mod nature;
mod network;
mod notices;
mod paths;
mod ports;
mod programs;
mod refusal;
mod repository;
mod sharing;
mod suites;
mod terminal;
mod two_sides;
mod user;

use std::process::ExitCode;

use system_tests::{Case, cases};

const CASES: &[Case] = cases![
    command::result_file_is_on_the_host_and_git_works,
    command::exit_statuses_are_the_commands_own,
    command::streams_stay_apart_and_stdin_ends,
    command::two_hundred_megabytes_cross_both_ways,
    command::signal_to_vmm_reaches_the_command,
    command::the_image_holds_what_it_promises,
    command::programs_lie_at_random_addresses_but_in_an_emulated_guest,
    belief::edits_are_seen_at_once,
    belief::file_can_be_read_while_the_host_saves_it,
    belief::names_are_believed_until_they_change,
    belief::programs_that_watch_files_hear_of_the_hosts_edits,
    belief::programs_hear_nothing_of_hidden_files,
    paths::any_byte_may_stand_in_a_project_path,
    paths::project_in_a_folder_of_the_guest_is_moved,
    files::files_behave_as_on_a_local_disk,
    files::guarded_paths_hold_against_the_guest,
    files::git_is_used_from_both_sides,
    files::full_disk_and_read_only_shares_say_so,
    files::file_server_is_confined_by_the_hosts_kernel,
    sharing::links_lead_nowhere_on_the_host,
    sharing::large_tree_needs_few_descriptors,
    nature::files_keep_their_nature,
    answers::errors_are_the_exact_ones,
    answers::time_stamps_serve_make,
    answers::owners_and_modes_for_an_ordinary_user,
    sharing::two_hundred_shares_and_single_files,
    two_sides::folder_moved_out_of_the_share_is_closed,
    two_sides::contents_cross_at_once,
    two_sides::names_cross,
    two_sides::git_status_is_stable_on_either_side,
    two_sides::git_commits_from_both_sides_at_once,
    repository::guest_and_host_work_in_it_in_turns,
    two_sides::share_replaced_or_removed_while_in_use,
    attributes::programs_attributes_are_kept_and_all_others_refused,
    attributes::writing_asks_for_no_attributes,
    attributes::what_holds_in_shares_is_told_by_the_file_server,
    notices::the_kernel_takes_well_formed_notices_only,
    suites::pjdfstest_fails_only_where_it_says_why,
    suites::fsx_finds_nothing,
    suites::fsx_finds_nothing_while_the_host_looks_on,
    suites::one_file_is_written_by_both_sides_in_turns,
    programs::packages_install,
    programs::archives_and_copies_keep_what_they_can,
    programs::cargo_builds_and_then_has_nothing_to_do,
    programs::databases_survive_their_users,
    hanging::share_that_hangs_leaves_the_rest_alone_and_lets_the_vm_end,
    terminal::programs_own_the_terminal,
    user::ordinary_user_of_the_kvm_group_runs_commands,
    user::shares_belong_to_the_user_who_works_with_them,
    user::a_user_whom_the_guest_does_not_know_is_refused,
    network::public_addresses_work_and_others_are_refused,
    network::no_network_means_none,
    egress::a_closed_policy_lets_nothing_out,
    egress::an_allow_list_opens_what_it_names_and_nothing_else,
    egress::the_public_internet_is_open_and_everything_else_is_not,
    egress::settings_files_decide_what_a_guest_reaches,
    egress::the_host_s_proxy_is_the_only_way_out,
    egress::bad_policies_are_refused,
    live::an_applied_policy_cuts_what_it_no_longer_allows,
    hostile::floods_and_crowds_are_bounded_and_others_go_on,
    hostile::trickled_requests_reach_nobody_and_cost_nobody_else,
    ports::published_ports_status_and_log,
    ports::automatic_ports_come_and_go,
    ports::bad_and_taken_ports_are_refused_before_the_start,
    refusal::neither_kvm_nor_qemu,
    refusal::kvm_without_permission,
    refusal::bad_kernels,
    refusal::bad_images,
    refusal::impossible_sizes,
    refusal::bad_projects,
    death::killed_vmm_leaves_nothing,
    death::panicking_kernel_is_reported,
    death::dying_agent_is_reported,
    death::ctrl_c_at_every_phase_of_the_start,
    death::what_nohup_ignores_stays_ignored,
    library::debian_stock_kernel_boots,
    library::two_vms_run_in_one_process,
    library::twenty_starts_and_stops_leave_nothing,
];

/// What takes an emulated guest of an emulated machine minutes, and tries what is the same code in both engines: the
/// file server's dealings with whole programs.
const SLOW: &[&str] = &["programs::", "repository::"];

fn main() -> ExitCode {
    system_tests::main(CASES, SLOW)
}
